"""What people look at after a job: report.html with its thumbnails, and the contact sheet."""
