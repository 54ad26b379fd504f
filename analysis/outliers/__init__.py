"""What is an outlier token, and does a model have any?"""
